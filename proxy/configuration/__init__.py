"""
Bringing what config.yaml says of models and budgets into the database.

    entries.py    model_list, read into `Entry`
    providers.py  which providers it may name, and where they are
    rates.py      LiteLLM's names of rates → ours
    plan.py       what has to change, compared with the database; and doing it

Reading the file itself is `spendproject/config_file.py`.
"""
