"""Work that takes time: jobs in processes of their own, and live answers from features in memory."""
