"""The baselines of the response benchmark against cases that can be counted by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.respond import CANDIDATES, Neighbours, TfIdf, figures, measured, ranks_of

WORDS = [f"word{i}" for i in range(CANDIDATES)]


def test_ranks_count_those_before_and_half_of_the_equal_ones() -> None:
    scores = np.array([[0.5, 0.9, 0.1], [0.3, 0.3, 0.3], [0.2, 0.1, 0.0]])
    np.testing.assert_array_equal(ranks_of(scores), [2, 2, 3])
    found = figures(np.array([1.0, 2.0, 10.0, 11.0]))
    assert found == {"recall@1": 0.25, "recall@10": 0.75, "mrr": (1 + 1 / 2 + 1 / 10 + 1 / 11) / 4}


def test_rare_words_weigh_more_and_vectors_have_length_one() -> None:
    tfidf = TfIdf(["the cat", "the dog", "The end, the end"])
    vector = tfidf.vector("the the cat unseen")
    assert np.isclose(sum(weight**2 for weight in vector.values()), 1.0) and set(vector) == {
        "the",
        "cat",
    }
    the, cat = (
        1 + np.log(2),
        np.log(4 / 2) + 1,
    )  # (1 + log count) * (log((1 + 3) / (1 + texts)) + 1)
    np.testing.assert_allclose(vector["cat"] / vector["the"], cat / the)


def test_a_turn_finds_the_response_that_shares_its_word() -> None:
    pairs = [(f"say {word}", f"{word} indeed") for word in WORDS]
    tfidf = TfIdf([text for pair in pairs for text in pair])
    assert measured(pairs, tfidf, lambda turn: [turn], 1) == [
        {"recall@1": 1.0, "recall@10": 1.0, "mrr": 1.0}
    ]
    others = [(x, y) for (x, _), (_, y) in zip(pairs, [*pairs[1:], pairs[0]], strict=True)]
    assert measured(others, tfidf, lambda turn: [turn], 1)[0]["recall@1"] == 0.0


def test_neighbours_answer_as_the_nearest_turns_were_answered() -> None:
    train = [(f"say {word}", f"{word.replace('word', 'answer')} it is") for word in WORDS]
    tfidf = TfIdf([text for pair in train for text in pair])
    neighbours = Neighbours(tfidf, train, 5)
    assert [number for number, _ in neighbours.nearest(tfidf.vector("please say word7 now"))][
        0
    ] == 7
    one, five = measured(train, tfidf, lambda turn: neighbours.responses(turn, (1, 5)), 2)
    assert one["recall@1"] == 1.0 and five["recall@1"] == 1.0
    assert measured(train, tfidf, lambda turn: [turn], 1)[0]["recall@1"] == 0.0, (
        "turn and response share no word"
    )
