"""What a program asks the tracking server: versions, stages, audit log, verify, diff."""
