"""Differential privacy: what is released of the patients, once, under noise; everything after is made of the release.

The unit is the patient: two cohorts are neighbours if one of them has one patient more, with all of that patient's
images (add or remove one). A release is (ε, δ)-differentially private if no event is more than e^ε times as likely
under one of them as under the other, but for δ (Dwork & Roth 2014, definition 2.4). What is computed from a release
without another look at the patients has the same ε and δ (proposition 2.1 there).
"""
