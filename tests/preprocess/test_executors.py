from collections import namedtuple

from hypothesis import given
from hypothesis import strategies as st

from pause_megatron.preprocess.executors import share_out

Source = namedtuple("Source", "size_bytes")
Job = namedtuple("Job", "source number")


def jobs_of(sizes):
    return [Job(Source(size), number) for number, size in enumerate(sizes)]


@given(st.lists(st.integers(0, 1000), max_size=50), st.integers(1, 9))
def test_every_job_goes_to_one_rank_and_no_rank_has_much_more(sizes, ranks):
    jobs = jobs_of(sizes)
    shares = share_out(jobs, ranks)
    assert sorted(job.number for share in shares for job in share) == list(range(len(jobs)))
    loads = [sum(max(1, job.source.size_bytes) for job in share) for share in shares]
    assert max(loads) - min(loads) <= max([1, *sizes])


def test_equal_shards_are_dealt_equally():
    assert [len(share) for share in share_out(jobs_of([300] * 1024), 64)] == [16] * 64
