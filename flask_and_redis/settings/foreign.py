"""Names that other software uses."""

#: Patterns of groups whose ``HOST`` belongs to other software in most applications.
FOREIGN_HOSTS = (
    *("RUN", "SERVER", "APP", "API", "WEB", "HTTP*", "*PROXY", "SITE", "PUBLIC"),
    *("BIND", "CDN*", "DB", "*_DB", "DATABASE*", "SQL*", "MYSQL*", "MARIADB*"),
    *("POSTGRES*", "PG*", "MSSQL*", "ORACLE*", "MONGO*", "CASSANDRA*", "CLICKHOUSE*"),
    *("INFLUX*", "NEO4J*", "COUCH*", "MAIL*", "EMAIL*", "SMTP*", "IMAP*", "POP3*"),
    *("FTP*", "SFTP*", "SSH*", "LDAP*", "RABBITMQ*", "AMQP*", "KAFKA*", "NATS*"),
    *("MQTT*", "ZOOKEEPER*", "CONSUL*", "ELASTIC*", "OPENSEARCH*", "SOLR*", "MEILI*"),
    *("TYPESENSE*", "MEMCACHE*", "STATSD*", "GRAPHITE*", "JAEGER*", "OTEL*", "DD_*"),
    *("DATADOG*", "SENTRY*", "LOGSTASH*", "FLUENT*", "SYSLOG*", "VAULT*", "MINIO*"),
    *("S3*", "AWS*", "DOCKER*"),
)

#: Names that people use instead of the right one, which are too different from it to be
#: recognized as misspelt.
WRONG_NAMES = {
    "connect_timeout": "socket_connect_timeout",
    "database": "db",
    "decode": "decode_responses",
    "pass": "password",
    "sentinel_password": "sentinel_kwargs",
    "sentinel_username": "sentinel_kwargs",
    "timeout": "socket_timeout",
    "tls": "ssl",
    "uri": "url",
    "use_ssl": "ssl",
    "use_tls": "ssl",
}
