"""The systems that UrbanLN is measured beside, one file each."""
