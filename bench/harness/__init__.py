"""What every measurement shares: taking turns, statistics, the machine, requests to score, pages and pictures."""
