"""What the training programs share: settings, the files of a run, its processes, and how it is stopped."""
