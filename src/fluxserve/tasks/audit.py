"""Every invariant of the queue and the ledger, asked of the database itself.

Run by the tests after whatever they did, and by the server at each start. That no account runs more than it may is not
among them: rows do not tell whether its limit was lowered since, which is allowed.
"""

from sqlalchemy import Connection, text

CHECKS: dict[str, str] = {
    "an account's balance is the sum of its ledger": """
        SELECT a.id FROM accounts a LEFT JOIN ledger l ON l.account_id = a.id
        GROUP BY a.id, a.balance HAVING a.balance <> COALESCE(SUM(l.balance_change), 0)""",
    "an account's frozen points are the sum of its ledger": """
        SELECT a.id FROM accounts a LEFT JOIN ledger l ON l.account_id = a.id
        GROUP BY a.id, a.frozen HAVING a.frozen <> COALESCE(SUM(l.frozen_change), 0)""",
    "an account's frozen points are the prices of its open tasks and what its completions hold": """
        SELECT a.id FROM accounts a WHERE a.frozen <> COALESCE((SELECT SUM(t.price) FROM tasks t
        WHERE t.account_id = a.id AND t.state IN ('staged', 'pending', 'processing')), 0)
        + COALESCE((SELECT SUM(c.held) FROM completions c
        WHERE c.account_id = a.id AND c.state = 'processing'), 0)""",
    "every task's price was held": """
        SELECT t.id FROM tasks t LEFT JOIN ledger l ON l.task_id = t.id AND l.phase = 'hold'
        WHERE l.id IS NULL OR l.frozen_change <> t.price OR l.balance_change <> -t.price""",
    "what a completion may cost was held": """
        SELECT c.id FROM completions c LEFT JOIN ledger l ON l.completion_id = c.id AND l.phase = 'hold'
        WHERE l.id IS NULL OR l.frozen_change <> c.held OR l.balance_change <> -c.held""",
    "a completed completion is settled with its price, and no other": """
        SELECT c.id FROM completions c LEFT JOIN ledger l ON l.completion_id = c.id AND l.phase = 'settle'
        WHERE (c.state = 'completed') <> (l.id IS NOT NULL)
        OR l.frozen_change <> -c.held OR l.balance_change <> c.held - c.price""",
    "a failed completion is released, and no other": """
        SELECT c.id FROM completions c LEFT JOIN ledger l ON l.completion_id = c.id AND l.phase = 'release'
        WHERE (c.state = 'failed') <> (l.id IS NOT NULL) OR l.frozen_change <> -c.held OR l.balance_change <> c.held""",
    "points are moved for the account whose task or completion it is": """
        SELECT l.id FROM ledger l
        LEFT JOIN tasks t ON t.id = l.task_id LEFT JOIN completions c ON c.id = l.completion_id
        WHERE l.phase <> 'deposit' AND l.account_id <> COALESCE(t.account_id, c.account_id)""",
    "only a completed completion has an answer": """
        SELECT c.id FROM completions c JOIN answers a ON a.completion_id = c.id WHERE c.state <> 'completed'""",
    "an idempotency key is its completion's account's": """
        SELECT i.completion_id FROM idempotency_keys i JOIN completions c ON c.id = i.completion_id
        WHERE c.account_id <> i.account_id""",
    "a completed task is settled, and no other": """
        SELECT t.id FROM tasks t LEFT JOIN ledger l ON l.task_id = t.id AND l.phase = 'settle'
        WHERE (t.state = 'completed') <> (l.id IS NOT NULL)""",
    "a failed task is released, and no other": """
        SELECT t.id FROM tasks t LEFT JOIN ledger l ON l.task_id = t.id AND l.phase = 'release'
        WHERE (t.state = 'failed') <> (l.id IS NOT NULL)""",
    "a task is completed if and only if it has outputs": """
        SELECT t.id FROM tasks t WHERE (t.state = 'completed')
        <> EXISTS (SELECT 1 FROM outputs o WHERE o.task_id = t.id)""",
    "a failed task says why": """
        SELECT id FROM tasks WHERE (state = 'failed') <> (error_code IS NOT NULL AND error_message <> '')""",
    "nothing is staged while its account has room": """
        SELECT a.id FROM accounts a JOIN tasks t ON t.account_id = a.id
        GROUP BY a.id, a.max_concurrent
        HAVING SUM(CASE WHEN t.state = 'staged' THEN 1 ELSE 0 END) > 0
        AND SUM(CASE WHEN t.state IN ('pending', 'processing') THEN 1 ELSE 0 END) < a.max_concurrent""",
    "a private task costs nothing": """
        SELECT id FROM tasks WHERE pool <> 'public' AND (price <> 0 OR pool <> account_id)""",
    "a finished task's webhook is in the outbox, and no other's": """
        SELECT t.id FROM tasks t LEFT JOIN webhooks w ON w.task_id = t.id
        WHERE (t.webhook_url IS NOT NULL AND t.state IN ('completed', 'failed')) <> (w.id IS NOT NULL)""",
    "an idempotency key is its task's account's": """
        SELECT i.task_id FROM idempotency_keys i JOIN tasks t ON t.id = i.task_id WHERE t.account_id <> i.account_id""",
}


def audit(connection: Connection) -> list[str]:
    """What does not hold, each with some ids; empty when all is well."""
    findings = []
    for invariant, query in CHECKS.items():
        broken = [str(row[0]) for row in connection.execute(text(query)).fetchmany(5)]
        if broken:
            findings.append(f"not true: {invariant} ({', '.join(broken)})")
    return findings
