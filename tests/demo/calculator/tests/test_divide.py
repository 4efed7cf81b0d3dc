import unittest

from src.calc import divide


class Divide(unittest.TestCase):
    def test_divides(self):
        self.assertEqual(divide(6, 3), 2)

    def test_division_by_zero_is_an_error(self):
        with self.assertRaises(ValueError):
            divide(1, 0)


if __name__ == "__main__":
    unittest.main()
