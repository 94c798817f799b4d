"""Drug target validation: is this target worth a programme, and how sure is one?"""

from env_server.envs.drug_target.family import family

__all__ = ["family"]
