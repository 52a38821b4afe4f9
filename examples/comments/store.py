"""All that the board asks of Redis.

``REDIS_LINKS`` says what belongs together:

- ``threads``: a sorted set of thread ids, by the time of the latest comment
- ``threads:by:<author>``: the same for one author, by the time of the start
- ``thread:<id>:comments``: a list of comment ids, oldest first
- ``count:threads``, ``count:comments``: counters that give out ids
- ``count:live``: how many comments there are

``REDIS_CONTENT`` has what people wrote:

- ``thread:<id>``, ``comment:<id>``: hashes

Three rules keep this right without locks:

1.  Keys of one Redis that must agree change in one step: a transaction, or a script
    where the step depends on what is there.
2.  Two Redis servers share no transaction. So content is written first and linked
    last, and unlinked first and removed last. What happens in between is content that
    nobody sees, and never a link to nothing.
3.  A command whose reply was lost is sent again. So each of them may be done twice.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass

from .extensions import manager

# Proxies: they find the client of the current app when they are used. To type checkers
# they are redis.Redis, whose hints do not know yet that replies are decoded.
links: t.Any = manager.get("REDIS_LINKS")
content: t.Any = manager.get("REDIS_CONTENT")

THREADS = "threads"
COMMENTS_COUNT = "count:live"

# Channels know no databases: all apps on one server share the names.
CHANNEL = "comments-example:changes"

THREADS_A_PAGE = 10
COMMENTS_A_PAGE = 20
# Redis counts in 64 bits; nobody turns this many pages.
LAST_PAGE = 1_000_000


@dataclass(frozen=True)
class Thread:
    """What a thread is about."""

    id: int
    title: str
    text: str
    author: str
    #: Seconds since 1970.
    created: float
    comments: int = 0


@dataclass(frozen=True)
class Comment:
    """What somebody said in a thread."""

    #: 1 for the thread's first.
    number: int
    text: str
    author: str
    #: Seconds since 1970.
    created: float


T = t.TypeVar("T")


@dataclass(frozen=True)
class Page(t.Generic[T]):
    """Some of many items, newest first."""

    items: list[T]
    number: int
    #: How many items there are on all pages.
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

    # A transaction: the thread is in both sorted sets or in none.
    with links.pipeline() as pipe:
        pipe.zadd(THREADS, {str(thread_id): now})
        pipe.zadd(by_author(author), {str(thread_id): now})
        pipe.execute()

    return thread_id


# A script is done in one step as well, and may look before it acts: nobody comments on
# a thread that is gone. If its reply was lost it is sent again, and finds the comment.
ADD_COMMENT = """
local threads, comments, count = KEYS[1], KEYS[2], KEYS[3]
local thread, comment, now, channel = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if not redis.call('ZSCORE', threads, thread) then
  return 0
end

if not redis.call('LPOS', comments, comment, 'RANK', -1, 'MAXLEN', 100) then
  redis.call('RPUSH', comments, comment)
  redis.call('ZADD', threads, now, thread)
  redis.call('INCR', count)
  redis.call('PUBLISH', channel, thread)
end

return 1
"""


def add_comment(thread_id: int, author: str, text: str) -> bool:
    """Add a comment, and tell all processes. False if the thread is gone."""
    comment_id = int(links.incr("count:comments"))
    now = time.time()
    written = {"text": text, "author": author, "created": now}
    content.hset(f"comment:{comment_id}", mapping=written)

    # The server keeps the script: from the second time on only its hash is sent.
    add = links.register_script(ADD_COMMENT)
    added = add(
        keys=[THREADS, comments_of(thread_id), COMMENTS_COUNT],
        args=[thread_id, comment_id, now, CHANNEL],
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
    """Delete a thread with all that was said in it, and tell all processes."""
    unlink = links.register_script(UNLINK_THREAD)
    comments = comments_of(thread.id)
    comment_ids = unlink(
        keys=[THREADS, by_author(thread.author), comments, COMMENTS_COUNT],
        args=[thread.id, CHANNEL],
    )
    # UNLINK is DEL that frees the memory of many keys behind the scenes.
    content.unlink(f"thread:{thread.id}", *(f"comment:{it}" for it in comment_ids))
    # Last, as whoever does all this a second time needs it.
    links.unlink(comments)


def get_thread(thread_id: int) -> Thread | None:
    """A thread, or None if there is none of this id."""
    # Without a transaction a pipeline only saves round trips.
    with links.pipeline(transaction=False) as pipe:
        pipe.zscore(THREADS, thread_id)
        pipe.llen(comments_of(thread_id))
        score, comments = pipe.execute()

    if score is None:
        return None

    found = content.hgetall(f"thread:{thread_id}")
    return read_thread(thread_id, found, comments) if found else None


def list_threads(number: int = 1, author: str | None = None) -> Page[Thread]:
    """A page of threads: those with the latest comments, or the latest of an author."""
    key = THREADS if author is None else by_author(author)
    number = min(number, LAST_PAGE)
    first = (number - 1) * THREADS_A_PAGE

    with links.pipeline() as pipe:
        pipe.zcard(key)
        pipe.zrange(key, first, first + THREADS_A_PAGE - 1, desc=True)
        total, thread_ids = pipe.execute()

    # One round trip for all of a page, however many threads there are on it.
    with links.pipeline(transaction=False) as pipe:
        for thread_id in thread_ids:
            pipe.llen(comments_of(thread_id))

        counts = pipe.execute()

    found = get_hashes([f"thread:{it}" for it in thread_ids])
    threads = [
        read_thread(int(thread_id), fields, count)
        for thread_id, fields, count in zip(thread_ids, found, counts, strict=True)
        # Empty if it was deleted a moment ago.
        if fields
    ]
    return Page(threads, number, total, THREADS_A_PAGE)


def list_comments(thread_id: int, number: int = 1) -> Page[Comment]:
    """A page of a thread's comments, newest first."""
    key = comments_of(thread_id)
    number = min(number, LAST_PAGE)
    newer = (number - 1) * COMMENTS_A_PAGE

    with links.pipeline() as pipe:
        pipe.llen(key)
        # Counted from the end, where the newest are.
        pipe.lrange(key, -newer - COMMENTS_A_PAGE, -newer - 1)
        total, comment_ids = pipe.execute()

    first = total - newer - len(comment_ids) + 1
    comments = read_comments(first, comment_ids)
    return Page(comments[::-1], number, total, COMMENTS_A_PAGE)


def list_comments_after(thread_id: int, seen: int) -> list[Comment] | None:
    """The comments of a thread but the first ones, oldest first. None if the thread is
    gone.

    :param seen: How many the caller has seen.
    """
    with links.pipeline() as pipe:
        pipe.zscore(THREADS, thread_id)
        pipe.lrange(comments_of(thread_id), seen, -1)
        score, comment_ids = pipe.execute()

    return None if score is None else read_comments(seen + 1, comment_ids)


def count_all() -> tuple[int, int]:
    """How many threads and how many comments there are."""
    with links.pipeline() as pipe:
        pipe.zcard(THREADS)
        pipe.get(COMMENTS_COUNT)
        threads, comments = pipe.execute()

    return threads, int(comments or 0)


def get_hashes(keys: list[str]) -> list[dict[str, str]]:
    """Many hashes of the content at once."""
    with content.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.hgetall(key)

        found: list[dict[str, str]] = pipe.execute()

    return found


def read_thread(thread_id: int, fields: dict[str, str], comments: int) -> Thread:
    """A thread out of its hash."""
    return Thread(
        id=thread_id,
        title=fields["title"],
        text=fields["text"],
        author=fields["author"],
        created=float(fields["created"]),
        comments=comments,
    )


def read_comments(first: int, comment_ids: list[str]) -> list[Comment]:
    """Comments out of their hashes.

    :param first: The number of the first of them.
    """
    found = get_hashes([f"comment:{it}" for it in comment_ids])
    return [
        Comment(number, fields["text"], fields["author"], float(fields["created"]))
        for number, fields in enumerate(found, first)
        if fields
    ]
