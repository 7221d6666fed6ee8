// Sizes, rates and times as people write them, and back.
import { TramError } from "../errors.ts";

const SIZE_UNITS: Record<string, number> = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

function bad(what: string, option: string, text: string, expected: string): TramError {
  return new TramError("E_USAGE", `${option}: '${text}' is no ${what}`, { expected });
}

/** "512M", "4GiB", "65536": bytes. Units are powers of 1024. */
export function parseSize(text: string, option: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(?:i?b)?|b)?$/i.exec(text.trim());
  const bytes = match ? Number(match[1]) * SIZE_UNITS[(match[2] ?? "").toLowerCase()] : Number.NaN;
  if (!Number.isSafeInteger(bytes)) throw bad("size", option, text, "for example 512M or 4GiB");
  return bytes;
}

/** As parseSize, in whole pages, and at least `min` bytes. */
export function parseMemory(text: string, option: string, min = 4096): number {
  const bytes = parseSize(text, option);
  const example = /^[1-9][0-9]{0,4}$/.test(text) ? `${text}M` : "512M";
  if (bytes < min || bytes % 4096)
    throw bad("memory size", option, text, `a multiple of 4 KiB, for example ${example}`);
  return bytes;
}

const BIT_UNITS: Record<string, number> = { "": 1, k: 1e3, m: 1e6, g: 1e9 };

/** "800MiB/s", "10Gbit/s", "1G": bytes a second. Bits count in powers of 1000, bytes in powers of 1024. */
export function parseRate(text: string, option: string): number {
  const bits = /^([0-9]+(?:\.[0-9]+)?)\s*([kmg]?)bit\/s$/i.exec(text.trim());
  if (bits) return Math.max(1, Math.round((Number(bits[1]) * BIT_UNITS[bits[2].toLowerCase()]) / 8));
  const bytes = text.trim().replace(/\/s$/i, "");
  // "100Mb/s" is megabits to some and mebibytes to others.
  // Bare bytes a second are what nobody means.
  if (!/^[0-9]/.test(bytes) || /[kmgKMG]b$/.test(bytes) || /^[0-9.]+$/.test(text.trim()))
    throw bad("rate", option, text, "for example 800MiB/s or 10Gbit/s");
  const rate = parseSize(bytes, option);
  if (rate <= 0) throw bad("rate", option, text, "more than nothing, for example 800MiB/s");
  return rate;
}

const TIME_UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 };

/** "300ms", "2m", "10s": milliseconds. */
export function parseDuration(text: string, option: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|min|h)$/i.exec(text.trim());
  const ms = match ? Number(match[1]) * TIME_UNITS[match[2].toLowerCase()] : Number.NaN;
  if (!Number.isFinite(ms) || ms > 2 ** 31 - 1) throw bad("time", option, text, "for example 300ms, 10s or 2m");
  return Math.round(ms);
}

/** A whole number in [min, max]. */
export function parseCount(text: string, option: string, min: number, max: number, or = ""): number {
  const value = /^[0-9]+$/.test(text.trim()) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max)) throw bad("number in range", option, text, `${or}${min} to ${max}`);
  return value;
}

export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = bytes;
  let unit = 0;
  // 1023.95 would be shown as 1024.0 of the unit below.
  while (value >= (unit === 0 ? 1024 : 1023.95) && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || Number.isInteger(value) ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

export const formatRate = (bytesPerSec: number): string => `${formatBytes(Math.round(bytesPerSec))}/s`;

export function formatMs(ms: number): string {
  const whole = Math.round(ms);
  if (whole < 1000) return `${whole} ms`;
  if (whole < 59_995) return `${(whole / 1000).toFixed(2)} s`;
  const seconds = Math.round(whole / 1000);
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** A time to come, of which nobody needs to know the milliseconds. */
export function formatEta(ms: number): string {
  const seconds = Math.ceil(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  const minutes = Math.round(seconds / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const formatCount = (value: number): string => value.toLocaleString("en-US");

/** "1 round", "2,000 rounds". */
export const formatMany = (count: number, what: string): string =>
  `${formatCount(count)} ${what}${count === 1 ? "" : "s"}`;
