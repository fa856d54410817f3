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
def _axis_factors(centre, deviation, first, stride, factors):  # type: ignore[no-untyped-def]
    """exp(-(x - centre)^2 / (2 deviation^2)) at evenly spaced x, from the middle outwards by two products each."""
    factors[:] = 0.0
    last = len(factors) - 1
    nearest = min(max(math.floor((centre - first) / stride + 0.5), 0), last)
    scale = 0.5 / (deviation * deviation)
    away = first + nearest * stride - centre
    bend = math.exp(-2.0 * scale * stride * stride)
    middle = math.exp(-scale * away * away)
    for direction in (1, -1):
        value = middle
        ratio = math.exp(-scale * (2.0 * direction * away * stride + stride * stride))
        place = nearest
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
def _set_tables(grid, means, deviations, parents, shares, displacements, table):  # type: ignore[no-untyped-def]
    """Centres of all patterns, and their factors by row and by column, the latter also times x and x^2."""
    first_y, stride_y, first_x, stride_x = grid
    centres, rows, columns, line = table
    height, width = rows.shape[0], columns.shape[1]
    for n in range(len(means)):
        y, x = _shift(parents[n], shares[n], displacements)
        centres[n, 0], centres[n, 1] = means[n, 0] + y, means[n, 1] + x
        norm = 1.0 / (2.0 * math.pi * deviations[n] * deviations[n])
        _axis_factors(centres[n, 0], deviations[n], first_y, stride_y, line[:height])
        for h in range(height):
            rows[h, n] = norm * line[h]
        _axis_factors(centres[n, 1], deviations[n], first_x, stride_x, line[:width])
        for w in range(width):
            away = first_x + w * stride_x - centres[n, 1]
            columns[0, w, n] = line[w]
            columns[1, w, n] = line[w] * away
            columns[2, w, n] = line[w] * away * away


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _density(row, column):  # type: ignore[no-untyped-def]
    total = 0.0
    for n in range(len(row)):
        total += row[n] * column[n]
    return total


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_row(responses, row, columns, tau, partial):  # type: ignore[no-untyped-def]
    """Sums over a row of F / density, times the columns' factors; returns sum F log density and if F is positive."""
    likelihood, positive = 0.0, False
    zeroth, first, second = partial[0], partial[1], partial[2]
    for w in range(len(responses)):
        response = responses[w]
        if response > 0.0:
            if not positive:
                partial[:] = 0.0
                positive = True
            density = tau + _density(row, columns[0, w])
            likelihood += response * math.log(density)
            ratio = response / density
            plain, along, square = columns[0, w], columns[1, w], columns[2, w]
            for n in range(len(row)):
                zeroth[n] += ratio * plain[n]
                first[n] += ratio * along[n]
                second[n] += ratio * square[n]
    return likelihood, positive


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_unit(responses, first_y, stride_y, table, tau, partial, moments):  # type: ignore[no-untyped-def]
    """Of one unit in one image: moments (4, N) of the patterns about their centres; returns the log likelihood."""
    centres, rows, columns, _ = table
    likelihood, total = 0.0, 0.0
    moments[:] = 0.0
    for h in range(len(responses)):
        part, positive = _add_row(responses[h], rows[h], columns, tau, partial)
        if positive:
            likelihood += part
            for w in range(responses.shape[1]):
                total += responses[h, w]
            y = first_y + h * stride_y
            for n in range(len(centres)):
                away = y - centres[n, 0]
                mass = rows[h, n] * partial[0, n]
                moments[0, n] += mass
                moments[1, n] += mass * away
                moments[2, n] += rows[h, n] * partial[1, n]
                moments[3, n] += mass * away * away + rows[h, n] * partial[2, n]
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
    own, partial = np.zeros((4, count)), np.zeros((3, count))
    line = np.zeros(max(height, width))
    table = (np.zeros((count, 2)), np.zeros((height, count)), np.zeros((3, width, count)), line)
    for image in range(len(responses)):
        for d in range(units):
            _set_tables(grid, means[d], deviations[d], parents[d], shares[d], displacements[image], table)
            likelihood[d] += _add_unit(responses[image, d], grid[0], grid[1], table, tau, partial, own)
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
