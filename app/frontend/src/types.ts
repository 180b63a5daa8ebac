// What Python sends to the map and what the map sends back; the Python side is app/mapview.py.
import type { FeatureCollection } from "geojson";

export interface LegendEntry {
  name: string;
  color: string;
}

export interface Legend {
  kind: "classes" | "ramp";
  entries: LegendEntry[]; // classes: one a class; ramp: colours from low to high
  low?: string;
  high?: string;
}

/** A score shown with a threshold that the browser applies by itself, without asking the server. */
export interface Threshold {
  low: number; // score that code 1 stands for
  high: number; // score that code 65535 stands for
  value: number;
  color: string;
}

export interface Layer {
  id: string;
  name: string;
  url: string; // with {z}, {x} and {y}; changes when the pixels would
  bounds: [[number, number], [number, number]]; // south-west, north-east, degrees
  maxNativeZoom: number;
  visible: boolean;
  opacity: number;
  legend: Legend | null;
  threshold: Threshold | null;
}

export interface Vectors {
  id: string;
  name: string;
  revision: string;
  color: string;
  geojson: FeatureCollection;
  selected: string | null;
}

export interface DrawClass {
  id: number;
  name: string;
  color: string;
}

export interface Draw {
  revision: number; // a new number makes the map forget its own features and take these
  classes: DrawClass[];
  features: FeatureCollection;
}

export interface Data {
  map: string;
  layers: Layer[]; // top first
  vectors: Vectors[];
  draw: Draw | null;
  fit: { token: string; bounds: [[number, number], [number, number]] } | null;
  pick: boolean; // whether a click is told to Python
  swipe: [string, string] | null; // layers to begin comparing, left and right
  height: number;
}

/** How the analyst arranged the layers, top first. */
export interface Arrangement {
  id: string;
  visible: boolean;
  opacity: number;
}

export type Tell = (name: string, value: unknown) => void;
