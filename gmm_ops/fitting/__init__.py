"""How any model is fitted online: which columns make which minibatch, and the loop over them."""
