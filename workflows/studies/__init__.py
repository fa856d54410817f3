"""What a finished run is asked: one folder a study, named like its command."""
