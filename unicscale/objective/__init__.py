"""What is minimised: standardised targets, the loss, and who teaches which image."""
