"""How good frozen features are: linear probe, few labels, k-NN, beside raw pixels and an untrained trunk."""
