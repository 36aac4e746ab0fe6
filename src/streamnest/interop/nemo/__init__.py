"""Import and export of NVIDIA NeMo checkpoints: NEST and FastConformer archives."""

from streamnest.interop.nemo.exporting import export_nemo
from streamnest.interop.nemo.importing import import_nemo
from streamnest.interop.nemo.weights import encoder_state_from_nemo, heads_state_from_nemo

__all__ = ["encoder_state_from_nemo", "export_nemo", "heads_state_from_nemo", "import_nemo"]
