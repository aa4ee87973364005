"""The three systems the hub serves, as small programs that each keep a view of their own.

`python -m consumers.systems.hotel_member --url ws://localhost:3400/ws --db member.db`
"""
