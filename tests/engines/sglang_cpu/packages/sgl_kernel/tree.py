"""Build the tree of drafted tokens, and find the path that the target takes."""

import torch

_NEW_TOKENS_ONLY = 1  # SGLang's mask mode for CPU: which of the new tokens each new token sees


def build_tree_kernel_efficient_cpu(
    parents, chosen, lengths, tree_mask, positions, index, first_child, next_sibling, topk, _steps, size, mask_mode
):
    """Turn the chosen candidates of each sequence into a tree of ``size`` nodes, node 0 the last verified token.

    Candidates are numbered step after step, ``topk`` per candidate that was expanded; ``chosen`` is ascending.
    ``parents[group]`` is the candidate that group ``candidate // topk`` was expanded from; group 0 is the root's.
    Writes the mask [size * size per sequence], the positions, and the links (node numbers, -1 for none).
    """
    if mask_mode != _NEW_TOKENS_ONLY:
        raise NotImplementedError(f"the stand-in for sgl_kernel has no tree mask of mode {mask_mode}")
    for sequence, (candidates, length) in enumerate(zip(chosen.tolist(), lengths.tolist(), strict=True)):
        node_of = {candidate: node for node, candidate in enumerate(candidates, start=1)}
        sees = torch.eye(size, dtype=torch.bool)
        sees[:, 0] = True
        youngest: dict[int, int] = {}
        index[sequence] = torch.arange(size) + sequence * size
        for candidate, node in node_of.items():
            group = candidate // topk
            parent = 0 if group == 0 else node_of.get(int(parents[sequence, group]))
            if parent is None:  # its parent was not chosen: no path leads to it
                continue
            sees[node] |= sees[parent]
            links, before = (next_sibling, youngest[parent]) if parent in youngest else (first_child, parent)
            links[sequence, before] = node
            youngest[parent] = node
        nodes = slice(sequence * size, (sequence + 1) * size)
        positions[nodes] = length + sees.sum(dim=1) - 1
        tree_mask.view(-1)[nodes.start * size : nodes.stop * size] = sees.view(-1)


def verify_tree_greedy_cpu(
    *,
    predicts,
    accept_index,
    accept_token_num,
    candidates,
    retrive_index,
    retrive_next_token,
    retrive_next_sibling,
    target_predict,
):
    """Walk from the root to the child that is the target's own next token, as long as there is one.

    Writes the target's token at every node passed into ``predicts``, the nodes passed into ``accept_index`` and how
    many were accepted (the root not counted) into ``accept_token_num``.
    """
    wanted = target_predict.reshape(-1)
    for sequence, drafted in enumerate(candidates):
        node, depth = 0, 0
        while True:
            place = int(retrive_index[sequence, node])
            accept_index[sequence, depth] = place
            predicts[place] = wanted[place]
            child = int(retrive_next_token[sequence, node])
            while child >= 0 and drafted[child] != wanted[place]:
                child = int(retrive_next_sibling[sequence, child])
            if child < 0 or depth + 1 == accept_index.shape[1]:
                break
            node, depth = child, depth + 1
        accept_token_num[sequence] = depth
