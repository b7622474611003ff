"""ELMo as AllenNLP and bilm-tf store it: `options.json` and `weights.hdf5`."""
