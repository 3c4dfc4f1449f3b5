"""The run on a borrowed T4: every build and every measurement in a process of its own, every finding kept.

``run`` goes through the steps that ``steps`` plans; ``process`` starts one and says how it ended, ``step`` is what runs
there: ``trial``, ``building`` or ``measuring``. ``findings`` keeps what they found, ``verdict`` makes results of it,
``archive`` packs it.
"""
