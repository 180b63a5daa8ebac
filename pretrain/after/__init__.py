"""What is done to a trained backbone: levelling and export."""
