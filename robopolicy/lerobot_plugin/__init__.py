"""LeRobot's commands with our robot and our policies: what LeRobot imports by itself once the plug-ins are installed.

``robopolicy lerobot install`` installs two distributions of one line each, by whose names LeRobot finds them.  This is
the one room that may import LeRobot when it is imported; nothing else imports this room.
"""
