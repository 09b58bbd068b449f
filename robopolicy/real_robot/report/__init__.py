"""What a person sees of a run: a dashboard while it goes on, a page of the recorded run, a recording for Rerun."""
