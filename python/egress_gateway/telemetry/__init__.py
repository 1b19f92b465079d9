"""What the gateway tells of itself: metrics, the decision log, and the loop that feeds both."""
