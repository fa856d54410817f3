"""What breaks without some units: accuracy on a class and on the others, with controls."""
