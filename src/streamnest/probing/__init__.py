"""Probes of frozen encoders: information in each layer, and in the codes of a quantizer."""
