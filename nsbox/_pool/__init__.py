"""Sandboxes that are ready before they are asked for.

::

    stock     keeps them ready, in the supervisor's run
    window    which items of a map are on their way, and whose outcome is next; no effects
    tasks     the tasks and events of trio and of asyncio
    mapping   `AsyncPool.map`
    pool      `AsyncPool`
"""

from nsbox._pool.mapping import PoolMap
from nsbox._pool.pool import AsyncPool
from nsbox._pool.stock import Loan, Stock, check_concurrency
from nsbox._pool.window import AHEAD, count

__all__ = ["AHEAD", "AsyncPool", "Loan", "PoolMap", "Stock", "check_concurrency", "count"]
