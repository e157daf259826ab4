"""What every integration must do, as a suite that its author's own tests can run."""
