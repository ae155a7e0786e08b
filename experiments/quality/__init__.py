"""How good are samples, beside trivial generators and MONAI's networks?"""
