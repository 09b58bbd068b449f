"""What a run on the arm leaves for training: LeRobot datasets on a fixed grid, with true times beside."""
