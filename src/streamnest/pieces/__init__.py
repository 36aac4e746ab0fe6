"""Training on recordings of any length, piece by piece, with the state of the streams carried along."""
