"""EPNet around another team's embedding and PPNet around another team's MMoE, with neither of them changed.

    python examples/plug_and_play.py

Two targets on generated rows: "by page" weighs half of the video's features, each page its own; "by user" weighs the
other half, each user their own. Their ranker sees all of it (user, video and page) and must learn those products
from sums; EPNet and PPNet are products. Trains four rankers in some ten seconds on one core and prints the AUC of
both targets on rows held out, beside what the labels' own noise leaves to reach.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pepnet_infer.export import EPNet, EPNetEmbedding, GatedNetwork, PPNet
from pepnet_infer.export.train.metrics import auc

USERS, PAGES, DIM, TOPICS = 100, 20, 8, 8
GENERAL = DIM + 2 * TOPICS + 4
Rows = tuple[Tensor, Tensor, Tensor]


class TheirEmbedding(nn.Module):
    """Somebody's embedding layer: columns in, one wide vector out."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.page = nn.Embedding(USERS, DIM), nn.Embedding(PAGES, 4)

    def forward(self, user: Tensor, video: Tensor, page: Tensor) -> Tensor:
        """User [B], video [B, 2·TOPICS], page [B] → [B, GENERAL]."""
        return torch.cat([self.user(user), video, self.page(page)], 1)


class TheirMMoE(nn.Module):
    """Somebody's MMoE: three experts of two layers, two targets."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(GENERAL, 48), nn.ReLU(), nn.Linear(48, 12), nn.ReLU()) for _ in range(3)
        )
        self.gates = nn.ModuleList(nn.Linear(GENERAL, 3) for _ in range(2))
        self.towers = nn.ModuleList(nn.Linear(12, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, GENERAL] → logits [B, 2]."""
        h = torch.stack([expert(x) for expert in self.experts], 1)
        mixed = [(torch.softmax(gate(x), 1).unsqueeze(2) * h).sum(1) for gate in self.gates]
        return torch.cat([tower(m) for tower, m in zip(self.towers, mixed, strict=True)], 1)


class Ranker(nn.Module):
    """Their two modules as they are, or with PEPNet's gates around them."""

    def __init__(self, epnet: bool, ppnet: bool) -> None:
        super().__init__()
        embedding, network = TheirEmbedding(), TheirMMoE()
        self.epnet, self.ppnet = epnet, ppnet
        self.domain, self.prior = embedding.page, nn.Embedding(USERS, DIM)
        self.embedding: nn.Module = embedding
        self.network: nn.Module = network
        if epnet:
            self.embedding = EPNetEmbedding(embedding, EPNet(4, GENERAL, general_input=False))
        if ppnet:
            layers = [[expert[at] for expert in network.experts] for at in (1, 3)]  # the ReLUs of all experts
            self.network = GatedNetwork(network, layers, PPNet(DIM, GENERAL, [48, 12]))

    def forward(self, user: Tensor, video: Tensor, page: Tensor) -> Tensor:
        """User [B], video [B, 2·TOPICS], page [B] → logits [B, 2]."""
        rows = user, video, page
        x = self.embedding(self.domain(page), *rows) if self.epnet else self.embedding(*rows)
        return self.network(self.prior(user), x, x) if self.ppnet else self.network(x)


def rows(count: int, seed: int) -> tuple[Rows, Tensor, Tensor]:
    """Returns (user, video, page), labels [count, 2] and the true logits [count, 2]."""
    truth, draw = np.random.default_rng(0), np.random.default_rng(seed)
    of_user, of_page = (2.0 * (truth.random((n, TOPICS)) < 0.4) for n in (USERS, PAGES))
    sign = truth.choice([-1.0, 1.0], TOPICS)
    user, page = draw.integers(0, USERS, count), draw.integers(0, PAGES, count)
    video = draw.standard_normal((count, 2 * TOPICS))
    weighed = (video[:, :TOPICS] * of_page[page], video[:, TOPICS:] * of_user[user])
    logits = np.stack([(part * sign).sum(1) for part in weighed], 1)
    labels = draw.random(logits.shape) < 1 / (1 + np.exp(-logits))
    inputs = torch.from_numpy(user), torch.from_numpy(video).float(), torch.from_numpy(page)
    return inputs, torch.from_numpy(labels).float(), torch.from_numpy(logits)


def run(epnet: bool, ppnet: bool) -> list[float]:
    """Trains one ranker and returns its AUC per target on rows it has not seen."""
    torch.manual_seed(0)
    ranker = Ranker(epnet, ppnet)
    optimizer = torch.optim.Adam(ranker.parameters(), lr=1e-2)
    inputs, labels, _ = rows(40_000, seed=1)
    for _ in range(6):
        for batch in torch.randperm(len(labels)).split(1024):
            loss = nn.functional.binary_cross_entropy_with_logits(ranker(*(x[batch] for x in inputs)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    inputs, labels, _ = rows(20_000, seed=2)
    with torch.no_grad():
        scores = ranker(*inputs)
    return [auc(labels[:, target], scores[:, target]) for target in (0, 1)]


def main() -> None:
    """Trains the four rankers and prints their AUC."""
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    print(f"{'AUC':16}{'by page':>10}{'by user':>10}")
    cases = (("their ranker", False, False), ("with EPNet", True, False), ("with PPNet", False, True))
    for name, epnet, ppnet in (*cases, ("with both", True, True)):
        print(f"{name:16}" + "".join(f"{value:10.3f}" for value in run(epnet, ppnet)), flush=True)
    _, labels, logits = rows(20_000, seed=2)
    print(f"{'best possible':16}" + "".join(f"{auc(labels[:, t], logits[:, t]):10.3f}" for t in (0, 1)))


if __name__ == "__main__":
    main()
