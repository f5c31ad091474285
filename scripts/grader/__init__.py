"""A grader, as the author of a course would write it on top of nsbox.

problems/*.toml     what is asked, the limits, and the tests
submissions/*/*.py  what was handed in, by problem
expected.toml       the grade and the verdict that each submission has to get

    problems    reading these files
    grading     a submission in its sandbox, test by test, up to the grade
    __main__    the table
"""
