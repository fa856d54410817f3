"""The loops over the patterns of a unit in an image: E-step, spread about the parents, places.

A unit is positive at a part of its positions, so all work is done where it is. Gaussians separate: a product of a row's
factor and a column's is the density, and sums over a row are shared by the three moments. Each unit and image is done
by itself, and sums over images are taken in their order: neither depends on what is handed over together.
"""

from __future__ import annotations

import math

import numba
import numpy as np

NEGLIGIBLE = 1e-40
"""Where a factor of a density has fallen so low, the rest of its row or column is 0: denormals are slow."""


@numba.njit(cache=True, nogil=True)
def _axis_factors(centre, deviation, bend, first, stride, factors):  # type: ignore[no-untyped-def]
    """exp(-(x - centre)^2 / (2 deviation^2)) at evenly spaced x, from the middle outwards by two products each.

    ``bend`` is exp(-(stride / deviation)^2), by which the ratio of neighbours falls from one to the next.
    """
    factors[:] = 0.0
    last = len(factors) - 1
    nearest = min(max(math.floor((centre - first) / stride + 0.5), 0), last)
    scale = 0.5 / (deviation * deviation)
    away = first + nearest * stride - centre
    middle = math.exp(-scale * away * away)
    upwards = math.exp(-scale * stride * (2.0 * away + stride))
    for direction in (1, -1):
        # Both ratios together are one bend; a centre far off the map has only one side.
        ratio = upwards if direction == 1 else bend / max(upwards, NEGLIGIBLE * NEGLIGIBLE)
        value, place = middle, nearest
        while 0 <= place <= last and value > NEGLIGIBLE:
            factors[place] = value
            value *= ratio
            ratio *= bend
            place += direction


@numba.njit(cache=True, nogil=True)
def _shift(parents, shares, displacements):  # type: ignore[no-untyped-def]
    """Weighted mean of the displacements of a pattern's parents in an image; parents below 0 take no part."""
    y, x = 0.0, 0.0
    for parent in range(len(parents)):
        column = parents[parent]
        if column >= 0:
            y += shares[parent] * displacements[0, column]
            x += shares[parent] * displacements[1, column]
    return y, x


@numba.njit(cache=True, nogil=True)
def _set_tables(grid, means, deviations, bends, parents, shares, displacements, table):  # type: ignore[no-untyped-def]
    """Centres of all patterns, and their factors by row and by column."""
    first_y, stride_y, first_x, stride_x = grid
    centres, rows, columns, line, _ = table
    height, width = len(rows), len(columns)
    for n in range(len(means)):
        y, x = _shift(parents[n], shares[n], displacements)
        centres[n, 0], centres[n, 1] = means[n, 0] + y, means[n, 1] + x
        norm = 1.0 / (2.0 * math.pi * deviations[n] * deviations[n])
        _axis_factors(centres[n, 0], deviations[n], bends[n, 0], first_y, stride_y, line[:height])
        for h in range(height):
            rows[h, n] = norm * line[h]
        _axis_factors(centres[n, 1], deviations[n], bends[n, 1], first_x, stride_x, line[:width])
        for w in range(width):
            columns[w, n] = line[w]


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _density(row, column):  # type: ignore[no-untyped-def]
    total = 0.0
    for n in range(len(row)):
        total += row[n] * column[n]
    return total


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_unit(responses, grid, table, tau, moments):  # type: ignore[no-untyped-def]
    """Of one unit in one image: moments (4, N) of the patterns about their centres; returns the log likelihood.

    With R = F / density: sums over a row of R times the columns' factors give the moments of y, sums over a column of R
    times the rows' factors those of x.
    """
    centres, rows, columns, _, sums = table
    along, across = sums[0], sums[1:]
    likelihood, total = 0.0, 0.0
    moments[:], across[:] = 0.0, 0.0
    for h in range(len(rows)):
        positive = False
        along[:] = 0.0
        for w in range(len(columns)):
            response = responses[h, w]
            if response > 0.0:
                positive = True
                density = tau + _density(rows[h], columns[w])
                likelihood += response * math.log(density)
                total += response
                ratio = response / density
                for n in range(len(centres)):
                    along[n] += ratio * columns[w, n]
                    across[w, n] += ratio * rows[h, n]
        if positive:
            for n in range(len(centres)):
                away = grid[0] + h * grid[1] - centres[n, 0]
                mass = rows[h, n] * along[n]
                moments[0, n] += mass
                moments[1, n] += mass * away
                moments[3, n] += mass * away * away
    for w in range(len(columns)):
        for n in range(len(centres)):
            away = grid[2] + w * grid[3] - centres[n, 1]
            mass = columns[w, n] * across[w, n]
            moments[2, n] += mass * away
            moments[3, n] += mass * away * away
    return likelihood - total * math.log(len(centres) + 1.0)


@numba.njit(cache=True, nogil=True)
def add_moments(  # type: ignore[no-untyped-def]
    responses, grid, means, deviations, parents, shares, displacements, tau, moments, likelihood, masses, places
):
    """E-step of a block of images, added to ``moments`` (D, 4, N) and ``likelihood`` (D,).

    ``masses`` (b, D, N) and ``places`` (b, D, N, 2) of each image are set, if they are not empty.
    """
    units, count = means.shape[:2]
    height, width = responses.shape[2:]
    bends = np.zeros((units, count, 2))
    for axis in (0, 1):
        bends[:, :, axis] = np.exp(-((grid[2 * axis + 1] / deviations) ** 2))
    own, line, sums = np.zeros((4, count)), np.zeros(max(height, width)), np.zeros((1 + width, count))
    table = (np.zeros((count, 2)), np.zeros((height, count)), np.zeros((width, count)), line, sums)
    for image in range(len(responses)):
        for d in range(units):
            _set_tables(grid, means[d], deviations[d], bends[d], parents[d], shares[d], displacements[image], table)
            likelihood[d] += _add_unit(responses[image, d], grid, table, tau, own)
            moments[d] += own
            if len(masses):
                for n in range(count):
                    divisor = own[0, n] if own[0, n] > 0.0 else 1.0
                    masses[image, d, n] = own[0, n]
                    places[image, d, n, 0] = table[0][n, 0] + own[1, n] / divisor
                    places[image, d, n, 1] = table[0][n, 1] + own[2, n] / divisor


@numba.njit(cache=True, nogil=True)
def add_spread(masses, places, means, parents, shares, displacements, sums):  # type: ignore[no-untyped-def]
    """Of one unit's patterns: mass, sums of m e and of m |e|^2 over images, e = place - mean - shift, into (4, N)."""
    for image in range(len(masses)):
        for n in range(len(means)):
            mass = masses[image, n]
            y, x = _shift(parents[n], shares[n], displacements[image])
            y, x = places[image, n, 0] - means[n, 0] - y, places[image, n, 1] - means[n, 1] - x
            sums[0, n] += mass
            sums[1, n] += mass * y
            sums[2, n] += mass * x
            sums[3, n] += mass * (y * y + x * x)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def take_parents(  # type: ignore[no-untyped-def]
    total, first, square, shifts, squares, along, weights, products, cross, state, chosen, step
):
    """Give every pattern the next parent: the one that leaves the least variance of place minus weighted mean shift.

    Args:
        total, first, square: (N,), (N, 2), (N,) sums over images of a pattern's mass m, m y and m |y|^2, y its place.
        shifts, squares, along: (2, N, C), (N, C), (N, C) sums of m d, m |d|^2 and m y d, d a candidate's displacement.
        weights: (C,) of the candidates in the mean.
        products: (N, C) sums of m d' d, d' that of the last chosen.
        cross: (N, C) sums of m s d, s the weighted sum of those chosen before; brought up to date.
        state: (N, 6) of those chosen: sum of weights; sums of m s (2), m |s|^2, m y s; weight of the last. Set.
        chosen: (N, M) set at ``step``.
    """
    values = np.zeros(len(weights))
    for n in range(len(total)):
        before, s_y, s_x, s_s, s_place, last = state[n]
        for c in range(len(weights)):
            cross[n, c] += last * products[n, c]
            w = weights[c]
            part = 1.0 / (before + w)
            y = first[n, 0] - part * (s_y + w * shifts[0, n, c])
            x = first[n, 1] - part * (s_x + w * shifts[1, n, c])
            shift = part * part * (s_s + w * (2.0 * cross[n, c] + w * squares[n, c]))
            spread = square[n] - 2.0 * part * (s_place + w * along[n, c]) + shift
            values[c] = spread - (y * y + x * x) / total[n]
        for m in range(step):
            values[chosen[n, m]] = np.inf
        best = np.argmin(values)
        w = weights[best]
        chosen[n, step] = best
        state[n, 0], state[n, 5] = before + w, w
        state[n, 1], state[n, 2] = s_y + w * shifts[0, n, best], s_x + w * shifts[1, n, best]
        state[n, 3] = s_s + w * (2.0 * cross[n, best] + w * squares[n, best])
        state[n, 4] = s_place + w * along[n, best]


@numba.njit(cache=True, nogil=True)
def set_places(  # type: ignore[no-untyped-def]
    responses, grid, means, deviations, parents, shares, displacements, places, scores
):
    """argmax of log F - |p - mean - shift|^2 / deviation^2 of each pattern (b, D, N, 2), and exp of its value."""
    units, count = means.shape[:2]
    height, width = responses.shape[2:]
    logs, tops, line = np.zeros((height, width)), np.zeros(height), np.zeros(width)
    for image in range(len(responses)):
        for d in range(units):
            for h in range(height):
                tops[h] = -np.inf
                for w in range(width):
                    response = responses[image, d, h, w]
                    logs[h, w] = math.log(response) if response > 0.0 else -np.inf
                    tops[h] = max(tops[h], logs[h, w])
            for n in range(count):
                y, x = _shift(parents[d, n], shares[d, n], displacements[image])
                centre = (means[d, n, 0] + y, means[d, n, 1] + x)
                best, h, w = _best_cell(logs, tops, grid, centre, deviations[d, n], line)
                scores[image, d, n] = math.exp(best)
                known = best > -np.inf
                places[image, d, n, 0] = grid[0] + h * grid[1] if known else np.nan
                places[image, d, n, 1] = grid[2] + w * grid[3] if known else np.nan


@numba.njit(cache=True, nogil=True)
def _best_cell(logs, tops, grid, centre, deviation, line):  # type: ignore[no-untyped-def]
    """Of equals the first in order of rows; a row whose largest response cannot win is left out."""
    best, row, column = -np.inf, 0, 0
    scale = 1.0 / (deviation * deviation)
    for w in range(len(line)):
        away = grid[2] + w * grid[3] - centre[1]
        line[w] = scale * away * away
    for h in range(len(tops)):
        away = grid[0] + h * grid[1] - centre[0]
        loss = scale * away * away
        if tops[h] - loss <= best:
            continue
        for w in range(len(line)):
            value = logs[h, w] - loss - line[w]
            if value > best:
                best, row, column = value, h, w
    return best, row, column
