class Config:
    CACHE_DECODE_RESPONSES = True
    CACHE_SOCKET_TIMEOUT = 0.5


class Development(Config):
    REDIS_URL = "fakeredis:///0"
    CACHE_URL = "fakeredis:///1"


class Production(Config):
    REDIS_URL = "redis://redis.internal:6379/0"
    CACHE_URL = "redis+sentinel://a.internal,b.internal,c.internal/cache"
    CACHE_MAX_CONNECTIONS = 20
