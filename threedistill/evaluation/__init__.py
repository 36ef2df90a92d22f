"""What a finished asset is worth: judged by an independent network, measured against ground truth."""
