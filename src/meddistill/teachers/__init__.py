"""Train networks on the cohort and keep their trajectories: Cohort → Trajectories."""
