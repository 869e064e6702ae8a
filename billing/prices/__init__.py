"""
From usage to cost and charge.

    pricing.py        the price book and its arithmetic
    model_names.py    by which names a price may be listed
    sources.py        prices of the genai-prices package
    cost_map.py       prices of a LiteLLM cost map
    litellm_rates.py  LiteLLM's names of rates
    sync.py           follows a cost map
    terms.py          discounts and margins by provider
    rate_cards.py     what a customer pays
    unpriced.py       models without a price
    repricing.py      prices booked calls again
    what_if.py        what days would have cost
"""
