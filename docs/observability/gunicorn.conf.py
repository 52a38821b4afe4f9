from prometheus_client import multiprocess

workers = 4


def child_exit(server, worker):
    # The connections of a worker that has ended are not counted any more.
    multiprocess.mark_process_dead(worker.pid)
