"""One run from a source to a package: plan, estimate, prepare, teach, distil, evaluate, write."""
