"""The board's data in Redis, and all commands that read and write it.

``REDIS_LINKS`` stores which threads and comments belong together:

- ``threads``: a sorted set of thread ids, by the time of the latest comment
- ``threads:by:<author>``: the same for one author, by the time of the start
- ``authors``: a set of the names of all who have written something
- ``thread:<id>:comments``: a list of comment ids, oldest first
- ``count:threads``, ``count:comments``: counters that generate ids
- ``count:live``: the number of comments

``REDIS_CONTENT`` stores the texts that users wrote:

- ``thread:<id>``, ``comment:<id>``: hashes

Three rules keep the data consistent without locks:

1.  Keys on one Redis server that must agree change in one step. The step is a
    transaction, or a script if it depends on stored data.
2.  Two Redis servers cannot share a transaction. So a thread or comment is added to
    ``REDIS_CONTENT`` first and ``REDIS_LINKS`` last. It is removed in the reverse
    order. If this is interrupted, there is some content that nobody sees, but never a
    link to missing content.
3.  redis-py sends a command again if its reply was lost. So each command must be safe
    to run twice.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass

from .extensions import manager

# Proxies: they use the client of the current app. They are typed as Any, because the
# type hints of redis.Redis do not know that replies are decoded.
links: t.Any = manager.get("REDIS_LINKS")
content: t.Any = manager.get("REDIS_CONTENT")

THREADS = "threads"
AUTHORS = "authors"
COMMENTS_COUNT = "count:live"

# Channels do not belong to a database: all apps on a server share their names.
CHANNEL = "comments-example:changes"

THREADS_A_PAGE = 10
COMMENTS_A_PAGE = 20
# Redis uses 64-bit integers. This limit keeps the positions in that range.
LAST_PAGE = 1_000_000


@dataclass(frozen=True)
class Thread:
    """A thread without its comments."""

    id: int
    title: str
    text: str
    author: str
    #: Seconds since 1970.
    created: float
    comments: int = 0


@dataclass(frozen=True)
class Comment:
    """A comment in a thread."""

    #: The position in the thread, from 1.
    number: int
    text: str
    author: str
    #: Seconds since 1970.
    created: float


T = t.TypeVar("T")


@dataclass(frozen=True)
class Page(t.Generic[T]):
    """One page of many items, newest first."""

    items: list[T]
    number: int
    #: The number of items on all pages.
    total: int
    size: int

    @property
    def last(self) -> int:
        """The last page's number."""
        return max(1, -(-self.total // self.size))


def by_author(author: str) -> str:
    """The key of one author's threads."""
    return f"threads:by:{author}"


def comments_of(thread_id: int) -> str:
    """The key of a thread's comments."""
    return f"thread:{thread_id}:comments"


def start_thread(author: str, title: str, text: str) -> int:
    """Start a thread and return its id."""
    thread_id = int(links.incr("count:threads"))
    now = time.time()
    written = {"title": title, "text": text, "author": author, "created": now}
    content.hset(f"thread:{thread_id}", mapping=written)

    # In a transaction, so that the thread is in all sets or in none.
    with links.pipeline() as pipe:
        pipe.zadd(THREADS, {str(thread_id): now})
        pipe.zadd(by_author(author), {str(thread_id): now})
        pipe.sadd(AUTHORS, author)
        pipe.execute()

    return thread_id


# A script also runs in one step, and can read before it writes. It adds no comment to a
# deleted thread. If its reply is lost, it runs again and finds the comment.
ADD_COMMENT = """
local threads, comments, count, authors = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local thread, comment, author = ARGV[1], ARGV[2], ARGV[3]
local now, channel = ARGV[4], ARGV[5]

if not redis.call('ZSCORE', threads, thread) then
  return 0
end

if not redis.call('LPOS', comments, comment, 'RANK', -1, 'MAXLEN', 100) then
  redis.call('RPUSH', comments, comment)
  redis.call('ZADD', threads, now, thread)
  redis.call('INCR', count)
  redis.call('SADD', authors, author)
  redis.call('PUBLISH', channel, thread)
end

return 1
"""


def add_comment(thread_id: int, author: str, text: str) -> bool:
    """Add a comment and notify all processes. Return False if there is no thread."""
    comment_id = int(links.incr("count:comments"))
    now = time.time()
    written = {"text": text, "author": author, "created": now}
    content.hset(f"comment:{comment_id}", mapping=written)

    # The server caches the script, so later calls send only its hash.
    add = links.register_script(ADD_COMMENT)
    added = add(
        keys=[THREADS, comments_of(thread_id), COMMENTS_COUNT, AUTHORS],
        args=[thread_id, comment_id, author, now, CHANNEL],
    )

    if not added:
        content.delete(f"comment:{comment_id}")

    return bool(added)


UNLINK_THREAD = """
local threads, authors, comments, count = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local thread, channel = ARGV[1], ARGV[2]

if redis.call('ZREM', threads, thread) == 1 then
  redis.call('ZREM', authors, thread)
  redis.call('DECRBY', count, redis.call('LLEN', comments))
  redis.call('PUBLISH', channel, thread)
end

return redis.call('LRANGE', comments, 0, -1)
"""


def delete_thread(thread: Thread) -> None:
    """Delete a thread with its comments, and notify all processes."""
    unlink = links.register_script(UNLINK_THREAD)
    comments = comments_of(thread.id)
    comment_ids = unlink(
        keys=[THREADS, by_author(thread.author), comments, COMMENTS_COUNT],
        args=[thread.id, CHANNEL],
    )
    # UNLINK is like DEL, but frees the memory in the background.
    content.unlink(
        f"thread:{thread.id}", *(f"comment:{comment_id}" for comment_id in comment_ids)
    )
    # Remove the list of comments last: a second call of this function needs it.
    links.unlink(comments)


def is_author(name: str) -> bool:
    """Return whether someone with this name has written a thread or a comment."""
    return bool(links.sismember(AUTHORS, name))


def get_thread(thread_id: int) -> Thread | None:
    """Return a thread, or None if there is none with this id."""
    # Without a transaction, a pipeline only saves round trips.
    with links.pipeline(transaction=False) as pipe:
        pipe.zscore(THREADS, thread_id)
        pipe.llen(comments_of(thread_id))
        score, comments = pipe.execute()

    if score is None:
        return None

    fields = content.hgetall(f"thread:{thread_id}")
    return read_thread(thread_id, fields, comments) if fields else None


def list_threads(number: int = 1, author: str | None = None) -> Page[Thread]:
    """Return a page of threads, newest first.

    All threads are sorted by their latest comment, those of an author by their start.
    """
    key = THREADS if author is None else by_author(author)
    number = min(number, LAST_PAGE)
    first = (number - 1) * THREADS_A_PAGE

    with links.pipeline() as pipe:
        pipe.zcard(key)
        pipe.zrange(key, first, first + THREADS_A_PAGE - 1, desc=True)
        total, thread_ids = pipe.execute()

    # One round trip for the whole page, however many threads it has.
    with links.pipeline(transaction=False) as pipe:
        for thread_id in thread_ids:
            pipe.llen(comments_of(thread_id))

        counts = pipe.execute()

    hashes = get_hashes([f"thread:{thread_id}" for thread_id in thread_ids])
    threads = [
        read_thread(int(thread_id), fields, count)
        for thread_id, fields, count in zip(thread_ids, hashes, counts, strict=True)
        # The hash is empty if the thread was deleted a moment ago.
        if fields
    ]
    return Page(threads, number, total, THREADS_A_PAGE)


def list_comments(thread_id: int, number: int = 1) -> Page[Comment]:
    """Return a page of a thread's comments, newest first."""
    key = comments_of(thread_id)
    number = min(number, LAST_PAGE)
    newer = (number - 1) * COMMENTS_A_PAGE

    with links.pipeline() as pipe:
        pipe.llen(key)
        # Count from the end, where the newest comments are.
        pipe.lrange(key, -newer - COMMENTS_A_PAGE, -newer - 1)
        total, comment_ids = pipe.execute()

    first = total - newer - len(comment_ids) + 1
    comments = read_comments(first, comment_ids)
    return Page(comments[::-1], number, total, COMMENTS_A_PAGE)


def list_comments_after(thread_id: int, seen: int) -> list[Comment] | None:
    """Return the comments that the caller has not seen, oldest first.

    Return None if there is no such thread.

    :param seen: How many comments the caller already has.
    """
    with links.pipeline() as pipe:
        pipe.zscore(THREADS, thread_id)
        pipe.lrange(comments_of(thread_id), seen, -1)
        score, comment_ids = pipe.execute()

    return None if score is None else read_comments(seen + 1, comment_ids)


def count_all() -> tuple[int, int]:
    """Return the number of threads and the number of comments."""
    with links.pipeline() as pipe:
        pipe.zcard(THREADS)
        pipe.get(COMMENTS_COUNT)
        threads, comments = pipe.execute()

    return threads, int(comments or 0)


def get_hashes(keys: list[str]) -> list[dict[str, str]]:
    """Read many hashes from ``REDIS_CONTENT`` in one round trip."""
    with content.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(key)

        hashes: list[dict[str, str]] = pipe.execute()

    return hashes


def read_thread(thread_id: int, fields: dict[str, str], comments: int) -> Thread:
    """Create a thread from its hash."""
    return Thread(
        id=thread_id,
        title=fields["title"],
        text=fields["text"],
        author=fields["author"],
        created=float(fields["created"]),
        comments=comments,
    )


def read_comments(first: int, comment_ids: list[str]) -> list[Comment]:
    """Read comments from their hashes.

    :param first: The number of the first comment.
    """
    hashes = get_hashes([f"comment:{comment_id}" for comment_id in comment_ids])
    return [
        Comment(number, fields["text"], fields["author"], float(fields["created"]))
        for number, fields in enumerate(hashes, first)
        if fields
    ]
