"""What this host can and cannot do: one small function a check, each with what it found and the remedy. Standard library only."""
