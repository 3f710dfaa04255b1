from bit_keras.text import table


def test_columns_are_aligned_to_their_widest_cell():
    assert table(("name", "n"), [("cat", 7), ("crocodile", 123)], "lr").splitlines() == [
        "name         n",
        "---------  ---",
        "cat          7",
        "crocodile  123",
    ]
