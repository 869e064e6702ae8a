"""
Why services refuse: what is asked for cannot be done. The edges say so in their own ways.

    Refused        it cannot be done as it is asked for     the API: 400
    ├ NotPermitted  not by this caller, or not here          403
    ├ Missing       what it names is not there               404
    └ Taken         somebody has it already                  409

`message` tells people what to do; `param` is the field it is about, by the API's name;
`type` is the word that programs look at (contract 1.4).
"""


class Refused(Exception):
    type = "bad_request"

    def __init__(self, message: str, *, param: str | None = None, type: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if type is not None:
            self.type = type


class NotPermitted(Refused):
    type = "auth_error"


class Missing(Refused):
    type = "not_found"


class Taken(Refused):
    type = "conflict"
