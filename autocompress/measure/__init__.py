"""What a trial is scored on."""
