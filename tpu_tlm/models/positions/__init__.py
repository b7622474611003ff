"""Position encodings, one file each; `tpu_tlm.config.position_encodings` is their registry."""
