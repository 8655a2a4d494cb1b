"""The receiver's side: train on a package, evaluate, and the rows that a package is compared with."""
