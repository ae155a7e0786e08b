"""SampleBank: samples on disk, how they are filled in, chosen and refused."""
