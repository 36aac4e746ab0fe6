"""Upstream of S3PRL: the layers of a checkpoint as hidden states for the tasks of SUPERB.

`upstream` needs only PyTorch. `register` and `python -m streamnest.interop.s3prl` need the extra s3prl.
"""
